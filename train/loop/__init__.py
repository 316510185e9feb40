"""Training itself: the step, the loss and its targets, schedules, EMA, validation, several processes."""
