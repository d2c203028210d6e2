"""What a stored run says: trajectories, emergence, claims, baselines."""
