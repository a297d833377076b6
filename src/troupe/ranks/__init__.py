"""Several learners on one gradient (docs/learners.md): they are processes, "ranks", of which rank 0 leads the run."""
