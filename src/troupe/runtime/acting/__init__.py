"""From environments and a policy to rollouts."""
