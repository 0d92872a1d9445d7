"""What needs no torch: files, projects, annotations, jobs, events. The only part that the viewer imports."""
