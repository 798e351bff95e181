"""What people see: the screen, figures, pages, files of other tools."""
