"""One module a kind of task of the challenge: choices among texts, reading times, age of acquisition, fine-tuning."""
