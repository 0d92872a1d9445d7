"""Jobs: the training loop, planning, pre-training, segmentation, inference, active learning."""
