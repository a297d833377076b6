"""An agent where there is neither troupe nor PyTorch: onnxruntime plays. To write it: troupe export (README)."""

import gymnasium as gym
import numpy as np
import onnxruntime


def play(file: str) -> float:
    """One episode of CartPole, played by the file."""
    session = onnxruntime.InferenceSession(file)
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=7)
    total, over = 0.0, False
    while not over:
        (action,) = session.run(["action"], {"obs": observation[None].astype(np.float32)})
        observation, reward, terminated, truncated, _ = env.step(int(action[0]))
        total += float(reward)
        over = terminated or truncated
    return total


if __name__ == "__main__":
    import troupe

    run = troupe.train("CartPole-v1", seed=1)
    print("wrote", run.agent.export("pole.onnx").file)  # or: troupe export RUN pole.onnx
    print("one episode of the file's:", play("pole.onnx"))
