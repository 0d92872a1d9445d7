"""Made-up volumes: random labels that look like anatomy, rendered as if by many scanners."""
