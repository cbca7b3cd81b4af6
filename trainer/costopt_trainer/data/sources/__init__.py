"""Where data comes from. A new source is a schema class, a file here, and a row in `table.py`.

table               the manifest's word -> a source, and what a source is
text_files          text: files, one document each
records             documents from records: lines or rows with named fields
standard_library    text: the files of Python's own library
labelled_text       the same with a label each
token_files         tokens made elsewhere
image_file          labelled images from one .npz file
image_folder        labelled images in folders, one for each class
table_file          labelled rows from one .npz file
npz_file            what both have in common
"""
