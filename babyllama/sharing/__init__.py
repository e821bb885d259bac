"""What leaves the machine: the Hugging Face hub (`publish`), GGUF files for llama.cpp and Ollama (`export`).

May import every room below it but corpus; no room knows this one.
"""
