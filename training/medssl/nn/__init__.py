"""Networks and what they are trained with: data on the device, models, methods. No project jobs."""
