"""`student-clap doctor`: what is looked at before anything is begun, and what it says. A check is a file in `checks`.

Whatever changes something belongs elsewhere: nothing here writes.
"""
