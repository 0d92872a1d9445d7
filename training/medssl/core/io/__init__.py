"""Scan and label files to volumes and back: NIfTI, MGH, NRRD, MetaImage, DICOM; geometry and intensities."""
