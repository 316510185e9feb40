"""`student-clap init`: the questions, the trial of the answers, and the two files that they become."""
