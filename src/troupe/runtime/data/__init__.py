"""What actors and learners hand to one another: rollouts, the queue they circulate in, shared memory."""
