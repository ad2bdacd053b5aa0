"""An echo through our server, and the Autobahn suite run against it; see docs/how-to/test.md."""
