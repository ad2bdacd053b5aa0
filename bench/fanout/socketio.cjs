// The peer Socket.IO: what a client emits is emitted to all, itself too. WebSocket only, as the load generator speaks it.
const { Server } = require('socket.io');

const io = new Server(Number(process.argv[2]), { transports: ['websocket'], perMessageDeflate: false, serveClient: false });

io.on('connection', (socket) => {
  socket.on('m', (data) => io.emit('m', data));
});
