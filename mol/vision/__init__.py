"""Videos, faces and optical flow: from files to aligned grey frames, landmarks and TV-L1 flow."""
