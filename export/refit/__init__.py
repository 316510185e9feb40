"""The last layer of a trained student, found anew in closed form, and whether it is taken."""
