"""One exchange with the API: connections, requests, answers."""
