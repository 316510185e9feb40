"""Reports to a user: the summary of a run, and the inventory of a store. Changes nothing."""
