"""`student-clap status`: how far the project is, from the rows to the live model, and what to do next. Reads only."""
