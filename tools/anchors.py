from mmyolo_ext.cli.anchors import main

if __name__ == '__main__':
    main()
