"""The page of the explorer; needs the optional package NiceGUI. Nothing is computed here."""
