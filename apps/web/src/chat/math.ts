import "katex/dist/katex.min.css";
import rehypeKatex from "rehype-katex";
import remarkMath from "remark-math";

// trust: false (the default) refuses \href, \includegraphics and HTML; a formula that is wrong is shown as it was written.
export const plugins = { remarkPlugins: [remarkMath], rehypePlugins: [[rehypeKatex, { strict: false, throwOnError: false, maxExpand: 300, maxSize: 20 }] as [typeof rehypeKatex, object]] };
