"""What jobs do: the training loop, planning, pre-training, fine-tuning, inference, active learning."""
