// Preloaded into an agent's Node.js: every connection and look-up that would leave this machine is written to
// $LOOPBACK_ONLY_LOG and refused. Child processes inherit it.
'use strict';
const dns = require('node:dns');
const fs = require('node:fs');
const net = require('node:net');

const isLocal = (host) => !host || host === 'localhost' || host === '::1' || /^127\./.test(host) || host === '::ffff:127.0.0.1';
const note = (kind, host) => fs.appendFileSync(process.env.LOOPBACK_ONLY_LOG, `${kind} ${host}\n`);

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
  process.nextTick(() => this.destroy(new Error(`no connection to ${host}: loopback only`)));
  return this;
};
const lookup = dns.lookup;
dns.lookup = function (host, ...rest) {
  if (isLocal(host)) return lookup.call(this, host, ...rest);
  note('refused', host);
  const done = rest[rest.length - 1];
  process.nextTick(() => done(Object.assign(new Error(`no look-up of ${host}: loopback only`), { code: 'ENOTFOUND' })));
};
