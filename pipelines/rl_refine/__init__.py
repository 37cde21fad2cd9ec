"""RL box regression: a policy moves a box step by step, learned by imitation and by group-relative optimisation."""
