"""Results for people and other programs: tables, plots, the log of a run."""
