"""The four tables of bench/field.py: what is made, what is tried, and what is right. One module makes each table."""
