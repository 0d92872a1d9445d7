"""A tour through the guide in the real window: each section is done by mouse and keyboard, and checked."""
