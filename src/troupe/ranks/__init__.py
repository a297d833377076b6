"""Several learners that share one gradient (docs/learners.md): one process ("rank") each; rank 0 leads the run."""
