"""The MCP Python SDK's own stdio server with nothing registered; it answers ping itself."""

from mcp.server.mcpserver import MCPServer

MCPServer("ping").run("stdio")
