"""What every study is made of: a subject, an experiment, a run, and a result with its files."""
