"""Train, load, and use the agent in a program of your own."""

import gymnasium as gym

import troupe

if __name__ == "__main__":
    run = troupe.train("CartPole-v1", seed=1)
    print(
        f"{run.outcome}: mean return {run.scores.mean:.1f} after {run.steps:,} steps, {run.seconds:.1f} s; {run.path}"
    )

    agent = troupe.load(run.path)
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=7)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
        total += float(reward)
        over = terminated or truncated
    print("one episode of my own:", total)
