import rehypeHighlight from "rehype-highlight";

export const plugins = { rehypePlugins: [[rehypeHighlight, { detect: false }] as [typeof rehypeHighlight, object]] };
