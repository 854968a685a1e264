"""The program: settings, chats, the store, start-up and the command line. Only this package imports both adapters and
model_server."""
