"""Tables: the dataset ``table``, and what reads tables of every form for the others."""
