"""Audio for the rows that lack it: the plan of a run, the downloads, their progress, the doubt about a source."""
