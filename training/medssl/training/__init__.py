"""What every training needs: a device, a plan, a network, the step loop, checkpoints."""
