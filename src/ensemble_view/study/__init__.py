"""What every study is made of: options, a subject, an experiment, a run, and a result with its files."""
