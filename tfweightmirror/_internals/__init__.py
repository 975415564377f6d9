"""Private: hooks of Keras and TensorFlow, and what several parts of the library share."""
