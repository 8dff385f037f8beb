"""Landing: bytes from a source into the landing bucket, as they came, and an entry in its landing log. No JVM."""
