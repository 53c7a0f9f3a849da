"""Detection of tissue, marks, blur and nuclei on thumbnails and patches. Pure functions of arrays."""
