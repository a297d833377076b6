"""What actors and learners exchange: rollouts, the queue in which they circulate, shared memory."""
