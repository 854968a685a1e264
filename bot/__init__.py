"""The program: settings, chats, the store, start-up and the command line. It alone knows both adapters and model_server."""
