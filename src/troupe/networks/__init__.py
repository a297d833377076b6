"""Networks: encoders and the actor-critic module that serves actors and learners alike."""
