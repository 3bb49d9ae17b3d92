"""One exchange with the API: session, sender, transport, wire."""
