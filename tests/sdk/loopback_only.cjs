// Preloaded into an agent's Node.js: every way out that Node.js has (connections, datagrams, look-ups) is written to
// $LOOPBACK_ONLY_LOG, and refused where it would leave this machine. Child processes inherit it. It guards against programs
// that call home, not against ones that hide: native code and other programs are not seen.
'use strict';
const dgram = require('node:dgram');
const dns = require('node:dns');
const fs = require('node:fs');
const net = require('node:net');

const isLocal = (host) => !host || host === 'localhost' || /^127\.\d+\.\d+\.\d+$/.test(host) || /^(::ffff:127\.\d+\.\d+\.\d+|::1)$/.test(host);
const note = (kind, host) => fs.appendFileSync(process.env.LOOPBACK_ONLY_LOG, `${kind} ${host}\n`);
const refusal = (what) => Object.assign(new Error(`no ${what}: loopback only`), { code: 'ENOTFOUND' });

// Calls back, or throws where the caller gave no function to be called.
function refuse(what, host, given) {
  note('refused', host);
  const done = given[given.length - 1];
  if (typeof done !== 'function') throw refusal(what);
  process.nextTick(() => done(refusal(what)));
}

// TCP, and what stands on it (HTTP, TLS, fetch, WebSocket).
const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...given) {
  const options = Array.isArray(given[0]) ? given[0][0] : given[0];
  const host = typeof options === 'object' ? options.host : typeof given[1] === 'string' ? given[1] : undefined;
  const path = typeof options === 'object' ? options.path : undefined;
  if (path || isLocal(host)) {
    note('local', host ?? path ?? 'localhost');
    return connect.apply(this, given);
  }
  note('refused', host);
  process.nextTick(() => this.destroy(refusal(`connection to ${host}`)));
  return this;
};

// UDP: by an address with each datagram, or by one for the socket.
const { send, connect: join } = dgram.Socket.prototype;
dgram.Socket.prototype.send = function (...given) {
  // (msg, [offset, length,] port, address, [callback]): the address is the first text behind the message.
  const host = given.slice(1).find((value) => typeof value === 'string' && !/^\d+$/.test(value));
  if (!isLocal(host)) return refuse(`datagram to ${host}`, host, given);
  note('local', host ?? 'localhost');
  return send.apply(this, given);
};
dgram.Socket.prototype.connect = function (port, ...rest) {
  const host = typeof rest[0] === 'string' ? rest[0] : undefined;
  if (!isLocal(host)) return refuse(`datagrams to ${host}`, host, rest);
  note('local', host ?? 'localhost');
  return join.call(this, port, ...rest);
};

// Names. A look-up of this machine's own name or of an address asks no other machine; resolve* always asks a name server.
function guardCallbacks(holder, name, local) {
  const real = holder[name];
  if (typeof real !== 'function') return;
  holder[name] = function (host, ...rest) {
    if (local && (isLocal(host) || net.isIP(host))) return real.call(this, host, ...rest);
    return refuse(`${name} of ${host}`, host, rest);
  };
}
function guardPromises(holder, name, local) {
  const real = holder[name];
  if (typeof real !== 'function') return;
  holder[name] = async function (host, ...rest) {
    if (local && (isLocal(host) || net.isIP(host))) return real.call(this, host, ...rest);
    note('refused', host);
    throw refusal(`${name} of ${host}`);
  };
}
const isQuestion = (name) => /^(resolve|reverse|lookupService)/.test(name);
for (const [holder, guard] of [[dns, guardCallbacks], [dns.Resolver.prototype, guardCallbacks],
  [dns.promises, guardPromises], [dns.promises.Resolver.prototype, guardPromises]]) {
  guard(holder, 'lookup', true);
  for (const name of Object.getOwnPropertyNames(holder).filter(isQuestion)) guard(holder, name, false);
  // The prototype of a resolver has its methods from another one.
  const base = Object.getPrototypeOf(holder);
  if (base && base !== Object.prototype && base !== Function.prototype) {
    for (const name of Object.getOwnPropertyNames(base).filter(isQuestion)) guard(holder, name, false);
  }
}
require('node:module').syncBuiltinESMExports();
