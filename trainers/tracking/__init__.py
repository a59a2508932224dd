"""Log trainings to experiment trackers: TensorBoard, MLflow, and Weights & Biases."""
