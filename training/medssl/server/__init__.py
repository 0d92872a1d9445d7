"""A project served to 3D Slicer and OHIF, by the calls of their MONAI Label clients (`medssl serve`).

Routes and documents follow what these clients send and read. torch is never loaded here: predictions,
suggestions and trainings run in engine processes (engines.py).
"""
