"""Reading and writing of scans and labels (NIfTI, MGH, NRRD, MetaImage, DICOM), geometry and intensities."""
