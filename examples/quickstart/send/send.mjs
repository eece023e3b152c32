// Sends a visitor's events with the official Segment SDK, as a shop's server would. Only `host` differs from its
// documentation.
//
//   node send.mjs VISITOR COUNT     with PENSTOCK_INGEST_URL and PENSTOCK_WRITE_KEY set
//
// Ends with an error unless every event was acknowledged.
import { Analytics } from '@segment/analytics-node';

const [visitor, count] = [process.argv[2], Number(process.argv[3] ?? 10)];
const { PENSTOCK_INGEST_URL: host, PENSTOCK_WRITE_KEY: writeKey } = process.env;
if (!visitor || !(count > 0) || !host || !writeKey) {
  console.error('usage: PENSTOCK_INGEST_URL=… PENSTOCK_WRITE_KEY=… node send.mjs VISITOR COUNT');
  process.exit(2);
}

const analytics = new Analytics({ writeKey, host, flushAt: 5 });
const errors = [];
analytics.on('error', (error) => errors.push(error));

const pages = ['Page Viewed', 'Product Viewed', 'Product Added', 'Checkout Started', 'Order Completed'];
let acknowledged = 0;
for (let step = 0; step < count; step += 1) {
  const event = {
    anonymousId: visitor,
    userId: `customer-${visitor}`,
    event: pages[step % pages.length],
    properties: { step, product: 'Dalahäst', price: 249.5, currency: 'SEK' },
  };
  analytics.track(event, (error) => {
    if (error) errors.push(error);
    else acknowledged += 1;
  });
}
await analytics.closeAndFlush({ timeout: 30_000 });

for (const error of errors) console.error(error.reason ?? error.message ?? error);
console.log(`${acknowledged} of ${count} events acknowledged`);
process.exit(acknowledged === count && errors.length === 0 ? 0 : 1);
