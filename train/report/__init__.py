"""What finished runs show: tables, pictures, pages. Loads no TensorFlow."""
